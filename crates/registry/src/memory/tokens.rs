//! Opaque tokens and revoked `jti`.

use crate::{AddToken, KeptToken, TokenUse};

use super::Registry;

impl Registry {
    pub(super) fn add_token(&mut self, token: KeptToken, live_max: usize, now_s: u64) -> AddToken {
        self.tokens.retain(|_, kept| kept.expires_s > now_s);
        self.revoked.retain(|_, until_s| *until_s > now_s);
        if !self.owned.contains_key(&token.uid) {
            return AddToken::Gone;
        }
        if self.tokens.values().filter(|kept| kept.uid == token.uid).count() >= live_max {
            return AddToken::Full;
        }
        self.tokens.insert(token.digest, token);
        AddToken::Added
    }

    pub(super) fn token(&self, digest: &[u8; 32], now_s: u64) -> Option<&KeptToken> {
        self.tokens.get(digest).filter(|token| token.expires_s > now_s)
    }

    pub(super) fn use_token(&mut self, digest: &[u8; 32], now_s: u64) -> TokenUse {
        let Some(token) = self.token(digest, now_s).cloned() else { return TokenUse::Gone };
        let is_used_successor = |other: &KeptToken| {
            is_family(other, &token)
                && other.generation > token.generation
                && other.used
                && other.expires_s > now_s
        };
        if token.renewed && self.tokens.values().any(is_used_successor) {
            self.tokens.retain(|_, other| !is_family(other, &token));
            return TokenUse::Stolen;
        }
        let kept = self.tokens.get_mut(digest).expect("it was found above");
        kept.used = true;
        TokenUse::Good(kept.clone())
    }

    pub(super) fn renew_token(
        &mut self,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> TokenUse {
        let token = match self.use_token(digest, now_s) {
            TokenUse::Good(token) => token,
            refused => return refused,
        };
        self.tokens.retain(|_, other| !is_family(other, &token) || other.generation <= token.generation);
        let kept = self.tokens.get_mut(digest).expect("it is not later than itself");
        kept.renewed = true;
        kept.expires_s = kept.expires_s.min(old_expires_s);
        let answer = TokenUse::Good(kept.clone());
        self.tokens.insert(successor.digest, successor);
        answer
    }

    pub(super) fn end_token(&mut self, digest: &[u8; 32], now_s: u64) -> usize {
        let Some(token) = self.token(digest, now_s).cloned() else { return 0 };
        let is_good = |other: &&KeptToken| is_family(other, &token) && other.expires_s > now_s;
        let good = self.tokens.values().filter(is_good).count();
        self.tokens.retain(|_, other| !is_family(other, &token));
        good
    }
}

fn is_family(other: &KeptToken, token: &KeptToken) -> bool {
    other.uid == token.uid && other.family == token.family
}
