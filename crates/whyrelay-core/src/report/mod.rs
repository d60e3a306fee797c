//! The account of a session and its renderers, which compute nothing.
