"""Durable files, hard links and objects on a mounted file system."""
