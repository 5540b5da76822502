"""Small models in place of the reward models that a licence or memory may call for."""
