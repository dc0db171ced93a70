"""Structures in the formats of other programs, one file per format; `campaign.export` picks one and publishes what it wrote."""
