"""One module per format of images -> an `OpenSplit`."""
