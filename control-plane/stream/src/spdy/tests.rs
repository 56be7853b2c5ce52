use super::*;

async fn frames(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
    let mut decoder = Decoder::new(bytes);
    let mut all = Vec::new();
    while let Some(frame) = decoder.next().await? {
        all.push(frame);
    }
    Ok(all)
}

#[test]
fn only_the_first_headers_carry_the_head_of_the_compression() {
    let mut encoder = Encoder::default();
    let first = encoder.open(1, &[("streamtype", "error")]).unwrap();
    let block = [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, 5], b"error"].concat();
    let expected = [
        &[0x80, 3, 0, 1, 0, 0, 0, 53][..],
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        &ZLIB_HEAD,
        &[0, 27, 0, 0xe4, 0xff],
        &block,
        &FLUSH,
    ]
    .concat();
    assert_eq!(first, expected);
    let second = encoder.open(3, &[("streamtype", "error")]).unwrap();
    assert_eq!(second.len(), first.len() - ZLIB_HEAD.len());
}

#[tokio::test]
async fn frames_are_told_apart() {
    let reply = control(SYN_REPLY, 0, &[0, 0, 0, 1, 9, 9, 9]).unwrap();
    let reset = control(RST_STREAM, 0, &[0, 0, 0, 5, 0, 0, 0, 1]).unwrap();
    let away = control(GO_AWAY, 0, &[0; 8]).unwrap();
    let data = [&[0, 0, 0, 3, FIN, 0, 0, 2][..], b"hi"].concat();
    let all = [&reply[..], &data, &reset, &pong(2), &fin(7), &away].concat();
    let expected = [
        Frame::Other,
        Frame::Data(3, Bytes::from_static(b"hi")),
        Frame::End(3),
        Frame::Reset(5),
        Frame::Ping(2),
        Frame::End(7),
        Frame::GoAway,
    ];
    assert_eq!(frames(&all).await.unwrap(), expected);
}

#[tokio::test]
async fn large_frames_come_in_parts() {
    let payload = vec![1; 3 * BUFFER];
    let head = data_head(3, 0, u32::try_from(payload.len()).unwrap());
    let all = frames(&[&head[..], &payload].concat()).await.unwrap();
    assert!(all.len() > 1);
    let sizes = all.iter().map(|frame| match frame {
        Frame::Data(3, part) => part.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.sum::<usize>(), payload.len());
}

#[tokio::test]
async fn what_is_cut_short_or_foreign_is_an_error() {
    assert!(frames(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.is_err());
    assert!(frames(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await.is_err());
    assert!(frames(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]).await.is_err());
    assert!(frames(&[0x80, 3, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1]).await.is_err());
    assert!(frames(&[0, 0, 0, 3, 0, 0, 0, 9, b'x']).await.is_err());
    assert!(frames(&[0x80]).await.is_err());
}

#[test]
fn data_is_cut_to_what_a_frame_may_carry() {
    let all: Vec<_> = data_frames(3, Bytes::from(vec![0; MAX_DATA + 1])).collect();
    assert_eq!(all.len(), 2);
    assert_eq!(&all[1].0[..], &[0, 0, 0, 3, 0, 0, 0, 1]);
    assert!(data_frames(3, Bytes::new()).next().is_none());
}
