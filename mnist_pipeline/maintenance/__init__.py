"""Looks after an outputs folder as it grows: verifies it, prunes it, collects what nobody needs."""
