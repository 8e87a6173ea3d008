"""The GPU market: offers, contracts, interruptions, and the API that shows them."""
