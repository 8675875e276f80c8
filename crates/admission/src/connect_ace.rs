//! The MQTT-TLS profile of ACE: a token and a proof of its key, in CONNECT and AUTH of MQTT 5, in user name and
//! password of 3.1.1, or kept from `authz-info` and proven in the TLS handshake.
//!
//! Source: RFC 9431 sections 2.2.4, 4 and 6.

use std::sync::Arc;

use drawbridge_identity::ace::{AceFault, Answer, ConnectData, PopInput, PopKey, token_of_user_name};
use drawbridge_identity::{AccessClaims, Refusal};
use drawbridge_jose::{PublicKey, base64url_decode};

use crate::Admission;
use crate::cache::Loaded;
use crate::connect::{Challenged, ConnectRequest, Proof, Verdict};
use crate::registries::Realm;
use crate::renew_session::{NewCredential, SessionRenewal};
use crate::seen::{Seen, claims_of};
use crate::tokens::ReadToken;
use crate::ways::{PeerProof, TlsFacts, Way, judge_way};

/// How long the nonce of the broker is (RFC 9431 section 2.2.4.2.2).
const NONCE_BYTES: usize = 8;

/// What proves the key of a token.
enum PopOf<'a> {
    /// Form 1, or the password of 3.1.1: over the exporter value.
    Connection(&'a [u8]),
    /// Form 5: over both nonces.
    Challenge(Challenged<'a>),
    /// Form 3: the handshake has proven this key.
    Handshake(&'a PublicKey),
}

impl Admission {
    /// Method `ace`, first and second step.
    pub(crate) async fn connect_by_ace(&self, request: &ConnectRequest<'_>) -> Result<Verdict, Refusal> {
        request.allows(Way::Ace)?;
        let (token, pop) = match (ConnectData::parse(request.data)?, request.challenged) {
            (ConnectData::Proof { token, pop }, None) => (token, PopOf::Connection(pop)),
            (ConnectData::Token { token }, Some(challenged)) => (token, PopOf::Challenge(challenged)),
            (ConnectData::Token { token }, None) => {
                // Who has no token of ours is told so now, and is asked nothing.
                self.prove_ace(request, token, None).await?;
                return Ok(Verdict::Challenge(self.ace_nonce().to_vec()));
            }
            (ConnectData::Stored, None) => {
                let (realm, proof) = self.prove_by_kept_token(request).await?;
                judge_way(&realm, &proof.loaded.principal, Way::AuthzInfo)?;
                return self.admit_by_ace(request, &realm, proof).await;
            }
            (_, Some(_)) => return Err(AceFault::Data("an answer came, and nothing was asked").into()),
        };
        let (realm, proof) = self.prove_ace(request, token, Some(pop)).await?;
        self.admit_by_ace(request, &realm, proof).await
    }

    async fn admit_by_ace(
        &self,
        request: &ConnectRequest<'_>,
        realm: &Realm,
        proof: Proof,
    ) -> Result<Verdict, Refusal> {
        self.judge_beside(realm, request, &proof).await?;
        judge_way(realm, &proof.loaded.principal, Way::Ace)?;
        self.charge_principal(&realm.record.name, proof.loaded.principal.uid, request.peer)?;
        self.admit(realm, proof, Seen::of(request, Some(Way::Ace)), None).await.map(Verdict::connected)
    }

    /// 3.1.1: token in the user name, proof in the password.
    pub(crate) async fn prove_by_ace_user_name(
        &self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        request.allows(Way::AceUserName)?;
        let token = request.username.and_then(token_of_user_name);
        let token = token.ok_or(AceFault::Data("the user name has no token"))?;
        let pop = request.password.unwrap_or_default();
        self.prove_ace(request, &token, Some(PopOf::Connection(pop))).await
    }

    /// AUTH 0x19 by `ace`: form 2 alone, for the exporter value would be that of the first proof.
    ///
    /// Source: RFC 9431 section 4.
    pub(crate) async fn renew_by_ace(&self, session: &SessionRenewal<'_>) -> Result<Verdict, Refusal> {
        let NewCredential::Method { data, challenged, .. } = session.credential else {
            return Err(Refusal::AuthMethod);
        };
        let mut request = self.as_connect(session, &[]);
        request.challenged = challenged;
        request.allows(Way::Ace)?;
        let token = match ConnectData::parse(Some(data))? {
            ConnectData::Token { token } => token,
            ConnectData::Proof { .. } => {
                return Err(AceFault::Exporter("its value is that of the first proof").into());
            }
            ConnectData::Stored => return Err(AceFault::NoToken.into()),
        };
        let pop = challenged.map(PopOf::Challenge);
        let asked = pop.is_some();
        let (realm, proof) = self.prove_ace(&request, token, pop).await?;
        if !asked {
            return Ok(Verdict::Challenge(self.ace_nonce().to_vec()));
        }
        judge_way(&realm, &proof.loaded.principal, Way::Ace)?;
        self.renewed_by(session, &realm, proof).await.map(Verdict::connected)
    }

    fn ace_nonce(&self) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        self.inner.random.fill(&mut nonce);
        nonce
    }

    /// Form 3: the key of the handshake has had its token published to `authz-info`, which is to be open. The key itself
    /// need not be a way in.
    ///
    /// Source: RFC 9431 sections 2.2.4.2 and appendix A.
    pub(crate) async fn prove_by_kept_token(
        &self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let realm = self.realm_of_request(request)?;
        let key = request.tls.and_then(|tls| tls.peer.as_ref()).and_then(key_of_peer);
        let key = key.filter(|_| request.ways.allows(Way::AuthzInfo)).ok_or(AceFault::NoToken)?;
        let token = self.kept_ace_token(&realm.record.name, &key).ok_or(AceFault::NoToken)?;
        self.prove_ace(request, &token, Some(PopOf::Handshake(&key))).await
    }

    /// Whether a token waits for whoever has proven this key in the handshake, where `authz-info` is open.
    pub(crate) fn has_kept_token(&self, request: &ConnectRequest<'_>) -> bool {
        let key = || request.tls.and_then(|tls| tls.peer.as_ref()).and_then(key_of_peer);
        request.ways.allows(Way::AuthzInfo)
            && self.realm_of_request(request).is_ok_and(|realm| {
                key().is_some_and(|key| self.kept_ace_token(&realm.record.name, &key).is_some())
            })
    }

    /// The proof behind a new token on `$drawbridge/auth`: over a value that this connection has for that token
    /// alone.
    pub(crate) fn judge_pop_line(
        &self,
        request: &ConnectRequest<'_>,
        realm: &Realm,
        loaded: &Loaded,
        claims: &AccessClaims,
        proof_line: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let refuse = |found: &str| Err(Refusal::Binding(found.to_owned()));
        let Some(proof) = proof_line else {
            return refuse("the token is bound to a key for proofs; connect by the method `ace`");
        };
        let Some(exporter) = request.tls.and_then(|tls| tls.refresh_exporter) else {
            return refuse("a proof needs TLS that ends at this server");
        };
        let proof = std::str::from_utf8(proof).ok().and_then(|proof| base64url_decode(proof.trim_end()).ok());
        let key = self.pop_key(realm, loaded, claims)?;
        let input = PopInput::Renewal(exporter);
        Ok(key.verify(&input, &proof.unwrap_or_default(), &self.inner.checker)?)
    }

    /// The order of judgement: the token's form and signature, its service, its principal, its age, then its key
    /// and the proof. Without a proof nothing is proven but that the token is good.
    async fn prove_ace(
        &self,
        request: &ConnectRequest<'_>,
        token: &[u8],
        pop: Option<PopOf<'_>>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let read = self.read_ace_token(request.listener_registry, token).await?;
        let ReadToken { realm, claims, mark, .. } = read;
        if claims.audience != realm.record.bridge_audience {
            return Err(Refusal::OtherService);
        }
        let loaded = self.standing(&realm, &claims).await?;
        // A gateway proves its own key, and which one that is no token of a device says.
        if claims.actor.is_some() {
            return Err(AceFault::Key("the token is a gateway's".to_owned()).into());
        }
        self.judge_cnonce(&realm, &claims)?;
        let key = self.pop_key(&realm, &loaded, &claims)?;
        let mut proven = false;
        if let Some(pop) = pop {
            self.judge_pop(request.tls, &key, &pop)?;
            proven = true;
        }
        let peer = request.tls.and_then(|tls| tls.peer.as_ref()).and_then(key_of_peer);
        let names_handshake =
            matches!((&key, &peer), (PopKey::Public(of_token), Some(of_peer)) if of_token == of_peer);
        let proof = Proof {
            claims: Some(claims_of(&claims)),
            scope: claims.scope,
            kid: claims.akid,
            ends_s: Some(claims.expires_s),
            token: Some(mark),
            proven,
            names_handshake,
            ..Proof::of(loaded)
        };
        Ok((realm, proof))
    }

    fn judge_pop(&self, tls: Option<&TlsFacts>, key: &PopKey, pop: &PopOf<'_>) -> Result<(), Refusal> {
        let checker = &self.inner.checker;
        match pop {
            PopOf::Connection(pop) => {
                let tls = tls.ok_or(AceFault::Exporter("TLS does not end at this server"))?;
                // RFC 9431 section 4: refused on every resumed session, although its value is a new one.
                if tls.resumed && !self.inner.config.ace_exporter_when_resumed {
                    return Err(AceFault::Exporter("the TLS session was resumed").into());
                }
                let exporter = tls.ace_exporter.ok_or(AceFault::Exporter("this TLS has no exporter"))?;
                Ok(key.verify(&PopInput::Exporter(exporter), pop, checker)?)
            }
            PopOf::Challenge(challenged) => {
                let nonce = <[u8; NONCE_BYTES]>::try_from(challenged.challenge);
                let nonce = nonce.map_err(|_| AceFault::Data("nothing was asked"))?;
                let answer = Answer::parse(challenged.answer)?;
                Ok(key.verify(&PopInput::Nonces(nonce, answer.nonce), answer.pop, checker)?)
            }
            PopOf::Handshake(proven) => match key {
                PopKey::Public(key) if key == *proven => Ok(()),
                _ => Err(AceFault::Proof.into()),
            },
        }
    }
}

/// The key that a client has proven in the handshake.
fn key_of_peer(peer: &PeerProof) -> Option<PublicKey> {
    match peer {
        PeerProof::RawKey(spki) => PublicKey::from_spki_der(spki).ok(),
        PeerProof::Certificate(certificate) => {
            PublicKey::from_certificate_der(certificate.chain_der.first()?).ok()
        }
    }
}
