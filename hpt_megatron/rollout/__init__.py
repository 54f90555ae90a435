"""Rollouts: what was sampled, token by token, as rows, for the rewards and in files.

engine/   who samples          agent/   what is asked next          tools/, search/   what an agent may use
"""
