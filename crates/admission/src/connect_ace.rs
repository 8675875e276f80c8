//! The ACE profile of MQTT (RFC 9431): a token and a proof in CONNECT. Not served by this listener until it is
//! switched on.

use std::sync::Arc;

use drawbridge_identity::Refusal;

use crate::Admission;
use crate::connect::{ConnectRequest, Proof, Verdict};
use crate::registries::Realm;
use crate::renew_session::SessionRenewal;
use crate::ways::Way;

impl Admission {
    /// Method `ace`, first and second step.
    pub(crate) async fn connect_by_ace(&self, request: &ConnectRequest<'_>) -> Result<Verdict, Refusal> {
        request.allows(Way::Ace)?;
        Err(Refusal::AuthMethod)
    }

    /// 3.1.1: token in the user name, proof in the password.
    pub(crate) async fn prove_by_ace_user_name(
        &self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        request.allows(Way::AceUserName)?;
        Err(Refusal::AuthMethod)
    }

    /// AUTH 0x19 by `ace`.
    pub(crate) async fn renew_by_ace(&self, session: &SessionRenewal<'_>) -> Result<Verdict, Refusal> {
        let _ = session;
        Err(Refusal::AuthMethod)
    }
}
