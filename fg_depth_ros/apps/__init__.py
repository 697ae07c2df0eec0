"""Start nodes as processes and measure them: demo, benchmarks, live replay."""
