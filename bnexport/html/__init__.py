"""A page that shows a network: `bnexport inspect --html`."""
