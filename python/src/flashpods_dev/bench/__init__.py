"""Our figures beside their peers', in one run, as ratios: what ``./dev bench`` prints."""
