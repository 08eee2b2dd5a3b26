"""Losses: functions of tensors, that know nothing of recipes."""
