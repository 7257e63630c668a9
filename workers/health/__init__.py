"""Whether all is well: the doctor, the metrics, the watchdog."""
