"""What the observatory would provide: DAQ, camera, telescope, weather, night and time itself."""
