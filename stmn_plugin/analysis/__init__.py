"""A trained run → what one can look at: views of clips, figures, tables, a page."""
