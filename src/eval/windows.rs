//! Which tokens of a text are scored, and what stands before each of them.
//!
//! A text is cut into windows of `n_ctx` tokens, what is left at the end is not used. Each window is read from an empty
//! context. The tokens of its second half are scored, but for the one at `n_ctx / 2`, so that each has at least half a
//! window before it. In a vocabulary with a token for the beginning of a text, that stands in the place of a window's
//! first token; the text itself gets one in front, too.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A window has at least so many tokens: three are scored.
const MIN_N_CTX: usize = 8;

/// A text as it is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Those of all windows, one after the other, as they are in the text.
    tokens: Vec<u32>,
    n_ctx: usize,
    bos: Option<u32>,
}

impl Windows {
    /// The windows of `n_ctx` tokens in `text`, at most `most` of them. The text is taken literally: names of control tokens in it are
    /// text like any other.
    ///
    /// # Errors
    /// If the text is too short for one, or `n_ctx` makes no sense.
    pub fn of_text(tokenizer: &dyn Tokenizer, text: &str, n_ctx: usize, most: Option<usize>) -> Result<Self> {
        let bos = bos(tokenizer);
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(tokenizer.encode(text, false)?);
        let n_tokens = tokens.len();
        check_n_ctx(n_ctx)?;
        let windows = Self::of_tokens(tokens, n_ctx, most, tokenizer);
        if windows.is_empty() {
            return Err(Error::Usage {
                what: match most {
                    Some(0) => "no window of the text is wanted".into(),
                    _ => format!("the text has {n_tokens} tokens, and a window takes {n_ctx}"),
                },
                hint: "use a longer text, or a smaller window (`-c`)".into(),
            });
        }
        Ok(windows)
    }

    /// The windows of `n_ctx` tokens in `tokens`, at most `most` of them, with the beginning that the vocabulary has.
    pub(super) fn of_tokens(
        mut tokens: Vec<u32>,
        n_ctx: usize,
        most: Option<usize>,
        tokenizer: &dyn Tokenizer,
    ) -> Self {
        let n_windows = (tokens.len() / n_ctx).min(most.unwrap_or(usize::MAX));
        tokens.truncate(n_windows * n_ctx);
        Self { tokens, n_ctx, bos: bos(tokenizer) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens in a window.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The tokens of all windows, as they are in the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of a window that are scored.
    pub fn n_scored(&self) -> usize {
        n_scored(self.n_ctx)
    }

    /// The `i`-th scored token of all windows.
    pub fn scored_token(&self, i: usize) -> u32 {
        let (window, i) = (i / self.n_scored(), i % self.n_scored());
        self.tokens[window * self.n_ctx + self.first_output() + i + 1]
    }

    /// The position in a window from which on logits are wanted: they are of the token behind.
    pub(super) fn first_output(&self) -> usize {
        self.n_ctx / 2
    }

    /// The token to run at a position of a window.
    pub(super) fn input(&self, window: usize, pos: usize) -> u32 {
        let token = self.tokens[window * self.n_ctx + pos];
        if pos == 0 { self.bos.unwrap_or(token) } else { token }
    }
}

/// Tokens of a window of `n_ctx` that are scored.
pub(super) fn n_scored(n_ctx: usize) -> usize {
    n_ctx - 1 - n_ctx / 2
}

/// That windows of so many tokens make sense.
///
/// # Errors
/// If they don't.
pub(super) fn check_n_ctx(n_ctx: usize) -> Result<()> {
    if (MIN_N_CTX..=i32::MAX as usize).contains(&n_ctx) {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("windows of {n_ctx} tokens"),
        hint: format!("a window has at least {MIN_N_CTX} tokens; 512 are usual"),
    })
}

/// What stands at the beginning of each window.
fn bos(tokenizer: &dyn Tokenizer) -> Option<u32> {
    let special = tokenizer.special();
    special.bos.filter(|_| special.add_bos)
}
