//! What a client is answered where a request or a response goes no further.

use ambit_api::envoy::pb::envoy::service::ext_proc::v3::ImmediateResponse;
use ambit_model::{Reason, Refusal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    mutation::{self, Line},
    session::Failure,
};
use crate::{
    compiled::{ExtProc, MutationRules},
    http::{
        ResponseBody,
        answer::{self, Style},
    },
    observe::Record,
    terminate::reason_headers,
};

/// Why a request or a response goes no further.
#[derive(Debug)]
pub enum End {
    /// The processor answers.
    Said {
        /// With this.
        immediate: Box<ImmediateResponse>,
        /// Why, for the log.
        refusal: Refusal,
        /// Which headers it may say.
        rules: MutationRules,
        /// What they may take together, in bytes.
        most: usize,
    },
    /// The waypoint refuses it.
    Refused(StatusCode, Refusal),
}

impl End {
    /// What the processor says.
    pub fn said(immediate: ImmediateResponse, config: &ExtProc, most: usize) -> Self {
        let cluster = &config.cluster;
        let detail = match immediate.details.as_str() {
            "" => format!("cluster {cluster}"),
            // It is of the processor's making, and goes to logs.
            details => format!("cluster {cluster}: {}", details.chars().take(256).collect::<String>()),
        };
        let refusal = Refusal::new(Reason::ExtProcAnswered, detail);
        Self::Said { immediate: Box::new(immediate), refusal, rules: config.rules, most }
    }

    /// The waypoint refuses it for this reason.
    pub fn refused(status: StatusCode, reason: Reason, detail: String) -> Self {
        Self::Refused(status, Refusal::new(reason, detail))
    }

    /// The processor has not answered as it should.
    pub fn failed(config: &ExtProc, failure: &Failure) -> Self {
        let text = format!("cluster {}: {}", config.cluster, failure.text);
        let status = if failure.late { StatusCode::GATEWAY_TIMEOUT } else { config.status_on_error };
        Self::refused(status, Reason::ExtProcError, text)
    }

    /// Whether the answer is the waypoint's own.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(..))
    }

    /// Why, for the log.
    pub fn refusal(&self) -> &Refusal {
        match self {
            Self::Said { refusal, .. } | Self::Refused(_, refusal) => refusal,
        }
    }

    /// The answer; of a response in whose place it comes, the `record` becomes its own.
    pub fn answer(self, record: Option<&mut Record>, style: Style) -> Response<ResponseBody> {
        match self {
            Self::Refused(status, refusal) => match record {
                Some(record) => answer::refused(record, style, status, &refusal),
                None => {
                    answer::unrecorded(style, status, Bytes::from_static(b"external processing failed"), reason_headers(&refusal))
                }
            },
            Self::Said { immediate, refusal, rules, most } => said(*immediate, &refusal, (rules, most), record, style),
        }
    }
}

fn said(
    immediate: ImmediateResponse,
    refusal: &Refusal,
    (rules, most): (MutationRules, usize),
    record: Option<&mut Record>,
    style: Style,
) -> Response<ResponseBody> {
    let ImmediateResponse { status, headers, body, grpc_status, .. } = immediate;
    let code = status.and_then(|status| u16::try_from(status.code).ok()).filter(|code| *code >= 200);
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::OK);
    let ours = if status.is_success() || status.is_redirection() { HeaderMap::new() } else { reason_headers(refusal) };
    let (text, data) = match style.grpc {
        true => (Bytes::from(String::from_utf8_lossy(&body).into_owned()), Vec::new()),
        false => (Bytes::new(), body),
    };
    let length = data.len() as u64;
    let mut response = answer::unrecorded(style, status, text, ours);
    if !data.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.body_mut() = ResponseBody::local(data.into());
    }
    if let Some(grpc) = grpc_status.filter(|_| style.grpc) {
        response.headers_mut().insert("grpc-status", HeaderValue::from(grpc.status));
    }
    if let Some(headers) = headers
        && let Err(why) = mutation::apply(headers, &rules, response.headers_mut(), &mut Line::Nothing, most)
    {
        // The answer stands, as in Envoy.
        tracing::debug!(why, "an external processor answers with headers that cannot be");
    }
    if let Some(record) = record {
        record.refused(refusal);
        record.status = Some(response.status().as_u16());
        record.received = length;
    }
    response
}
