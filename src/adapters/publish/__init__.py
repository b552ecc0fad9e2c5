"""Publishing a finished run: bundle, checks (the gate), model card, push to the Hub."""
