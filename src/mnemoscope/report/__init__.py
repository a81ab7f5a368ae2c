"""Pictures and pages: the HTML report, figures for notebooks, the README's picture."""
