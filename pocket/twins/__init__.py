"""Pocket twins of MetricX, XCOMET and an MQM judge: their formats, fitted on errors that are known."""
