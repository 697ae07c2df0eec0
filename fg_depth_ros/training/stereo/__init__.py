"""Train the stereo network on synthetic scenes."""
