"""Files that travel to the Hub beside the weights: the Inference Endpoints handler and what it has to install."""
