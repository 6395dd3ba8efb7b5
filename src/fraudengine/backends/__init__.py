"""Three backends with one meaning: `reference` is the law, `online` screens, `columnar` replays."""
