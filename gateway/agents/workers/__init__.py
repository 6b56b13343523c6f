"""Agent programs that run in processes of their own."""
