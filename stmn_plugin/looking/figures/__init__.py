"""Arrays and pictures → matplotlib figures for a column or a page; one file a figure."""
