"""The reference LENS trainer: rewards, GRPO, data order, rollouts, the loop, checkpoints, recipes."""
