//! Registries.

/// The value of a Basic authorization header.
pub(crate) fn basic_value(username: &str, password: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{username}:{password}"))
}
