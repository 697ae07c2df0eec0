"""Write what was measured: one report, one page, pictures."""
