"""Repeat FG-Depth's experiments: the losses' ablation and Figure 3."""
