//! What an apiserver is shown to know this client, for single questions.

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use kube::client::AuthError;
use kube::client::middleware::AuthLayer;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tower::{Layer, ServiceExt};

use super::{Access, discreet, identity, prepare};
use crate::readyz;

/// Read once; secrets are not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The CA, and certificate and key of the client if it has them.
    pub tls: ClientConfig,
    /// The Authorization header, if there is one. It is marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The client certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl Credentials {
    /// The bearer token.
    pub fn token(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl Access {
    /// The cluster's CA, in DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        self.config.root_cert.as_deref().unwrap_or_default()
    }

    /// Reads the credentials. A plugin is run if there is one, which can take seconds.
    ///
    /// # Errors
    /// One line that says what cannot be read.
    pub async fn credentials(&self) -> Result<Credentials, String> {
        let prepared = prepare(self).await?;
        let mut authorization = self.token.as_ref().map(|token| token.header());
        if let (None, Some(auth)) = (&authorization, prepared.auth) {
            authorization = header(&auth)?;
        }
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let certificate = identity::certificate(&self.config.auth_info)
            .and_then(|pem| Some(CertificateDer::pem_slice_iter(&pem).next()?.ok()?.to_vec()));
        Ok(Credentials { tls: prepared.tls, authorization, certificate })
    }

    /// As whom apiservers are asked before the first session. A plugin is not run for it: that is left to the session, which
    /// waits for it without holding up anybody else.
    pub async fn identity(&self) -> Result<readyz::Identity, String> {
        let trust = self.trust()?.into();
        let credentials = match self.plugin() {
            Some(_) => None,
            None => {
                let Credentials { tls, authorization, .. } = self.credentials().await?;
                readyz::Credentials::new(Some(tls.client_auth_cert_resolver), authorization)
            }
        };
        Ok(readyz::Identity { trust, credentials })
    }
}

/// The Authorization header as it is now. A plugin whose token has ended is run for it, while the thread waits.
pub(in crate::apiserver) fn header(auth: &AuthLayer) -> Result<Option<HeaderValue>, String> {
    // The layer puts its header on a request, and here the request is all that is wanted.
    let taken = tower::service_fn(|request: Request<Empty<Bytes>>| async move {
        Ok::<_, tower::BoxError>(Response::new(request.into_parts().0.headers))
    });
    let headers = auth.layer(taken).oneshot(Request::new(Empty::new())).now_or_never();
    let headers: Response<HeaderMap> = headers
        .ok_or("the credential plugin runs for another request")?
        .map_err(|error| match error.downcast_ref::<AuthError>() {
            Some(error) => discreet::of_plugin(error),
            None => "the credential plugin gave none".to_owned(),
        })?;
    Ok(headers.into_body().remove(AUTHORIZATION))
}
