"""Checks that retrain: RemOve And Retrain, and labels drawn anew."""
