"""Render everything synthetic: layered stereo scenes, flying chairs, the virtual world."""
