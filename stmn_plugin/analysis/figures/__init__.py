"""Arrays and pictures → matplotlib figures at the width of a column or a page; one file a figure."""
