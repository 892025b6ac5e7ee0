//! Streams yield whole characters only, and no invented ones.

use shears_data::{StreamDecoder, Tokenizer, TokenizerKind};

const TEXT: &str = "龍與蛇 👩‍👩‍👧 naïve\r\n\0 Ω龍與蛇龍與蛇";

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut decoder = StreamDecoder::new(tokenizer);
    let mut pieces: Vec<String> = ids.iter().filter_map(|id| decoder.push(*id)).collect();
    pieces.extend(decoder.finish());
    pieces
}

#[test]
fn every_kind_decodes_the_text_it_encoded() {
    for kind in [
        TokenizerKind::Byte,
        TokenizerKind::Char,
        TokenizerKind::Bpe(260),
    ] {
        let tokenizer = Tokenizer::build(&kind, TEXT).unwrap();
        let pieces = pieces(&tokenizer, &tokenizer.encode(TEXT).unwrap());
        assert!(
            pieces
                .iter()
                .all(|piece| !piece.is_empty() && !piece.contains('\u{FFFD}'))
        );
        assert_eq!(pieces.concat(), TEXT, "{kind}");
    }
}

#[test]
fn bytes_wait_for_their_character() {
    let byte = Tokenizer::build(&TokenizerKind::Byte, "").unwrap();
    let ids: Vec<u32> = "龍".bytes().map(u32::from).collect();
    let mut decoder = StreamDecoder::new(&byte);
    assert_eq!(decoder.push(ids[0]), None);
    assert_eq!(decoder.push(ids[1]), None);
    assert_eq!(decoder.push(ids[2]).as_deref(), Some("龍"));
    assert_eq!(decoder.push(ids[0]), None);
    assert_eq!(decoder.push(65).as_deref(), Some("\u{FFFD}A"));
    assert_eq!(decoder.push(ids[0]), None);
    assert_eq!(decoder.finish().as_deref(), Some("\u{FFFD}"));
    assert_eq!(decoder.finish(), None);
}

#[test]
fn tokens_in_context_stream_like_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(
        &path,
        r###"{"version":"1.0","added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
        "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
        "model":{"type":"WordLevel","unk_token":"a","vocab":{"a":0,"b":1,".":2,"##c":3}}}"###,
    )
    .unwrap();
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.describe(), "wordlevel, 4 tokens");
    let ids = [0, 1, 3, 2, 0, 3, 3, 1, 2].repeat(50);
    assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids));
    // The text after a prompt has the same space before it as in the whole.
    for prompt in [1, 2, 3, 40, 449] {
        let mut decoder = StreamDecoder::after(&tokenizer, &ids[..prompt]);
        let mut text = tokenizer.decode(&ids[..prompt]);
        for id in &ids[prompt..] {
            text.push_str(&decoder.push(*id).unwrap_or_default());
        }
        text.push_str(&decoder.finish().unwrap_or_default());
        assert_eq!(text, tokenizer.decode(&ids), "{prompt}");
    }
}
