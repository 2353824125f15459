"""Detection of personal data and secrets: `detectors.Detectors` runs them, `detector.Detector` is what each one is."""
