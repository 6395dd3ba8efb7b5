"""fraudengine: screens card payments against per-merchant rules before they are authorised."""
