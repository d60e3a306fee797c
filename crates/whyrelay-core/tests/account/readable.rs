//! An HTML page as a snapshot that can be read.

/// The body without the style, one element a line.
pub(crate) fn readable(html: &str) -> String {
    let style = html.find("<style>").expect("a style")..html.find("</style>").expect("its end");
    let mut text = html.to_owned();
    text.replace_range(style, "<style>");
    text.replace("><", ">\n<")
}
