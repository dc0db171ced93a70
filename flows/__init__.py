"""The campaign as a Prefect flow. Deleting this package takes no ability away from the command line."""
