//! The frames of a body that is passed on.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

/// The next frame that says something. An empty one, as with which some clients end what they send, says nothing, and whoever gets many of
/// them may take them for a flood (RFC 9113, section 10.5): a peer that uses h2 ends its connection at the hundredth of them.
pub fn poll_filled<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            frame => return Poll::Ready(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{executor::block_on, future::poll_fn, stream};
    use http::HeaderMap;
    use http_body_util::StreamBody;

    use super::*;

    #[test]
    fn empty_frames_are_passed_over_and_everything_else_passes() {
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        let frames = [data(""), data("a"), data(""), data(""), data("b"), data(""), Frame::trailers(HeaderMap::new()), data("")];
        let mut body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut next = || block_on(poll_fn(|cx| poll_filled(&mut body, cx))).map(|Ok(frame)| frame.into_data().ok());
        let passed: Vec<_> = std::iter::from_fn(&mut next).collect();
        assert_eq!(passed, [Some(Bytes::from_static(b"a")), Some(Bytes::from_static(b"b")), None]);
    }
}
