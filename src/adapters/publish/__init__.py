"""Publishing a run: bundle, checks (the gate), model card, push to the Hub."""
