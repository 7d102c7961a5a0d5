//! An error and its causes as one line, printed once at the edge of the program.

use std::error::Error;

/// Joins an error and all its sources with `: `, leaving out a source whose text the line already ends with.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot attach pod 4f1c")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_their_error_once() {
        let error = Outer(std::io::Error::other("no such bridge"));
        assert_eq!(chain(&error), "cannot attach pod 4f1c: no such bridge");
    }
}
