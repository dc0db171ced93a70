"""Structures as people have them: finding the files, reading every frame or saying why not, judging what was read."""
