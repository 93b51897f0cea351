"""What several test modules of eval use: fake engines, graders, models and simulated runs."""
