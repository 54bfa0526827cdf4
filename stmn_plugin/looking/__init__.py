"""A trained run → what it does: views of clips, measures, figures, the page of the run."""
