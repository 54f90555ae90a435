"""Feedback on answers, from models and from people: preference rows, revised demonstrations, ratings, win rates."""
