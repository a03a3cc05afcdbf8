/* One word of a command line: [+|++|~] key [@package] [= value]. */
#include <string.h>

#include "config/interp.h"
#include "config/reader.h"

static bool key_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         strchr("_-$./", c);
}

static rp_status bad_word(const char *text, size_t column, rp_error *err, const char *why) {
  return rp_fail_place(err, (rp_place){text, 0, (int)column + 1}, "%s", why);
}

static rp_status check_key(const char *text, const char *key, size_t len, rp_error *err) {
  const size_t at = (size_t)(key - text);
  if (len == 0) return bad_word(text, at, err, "the key before = is missing");
  int parts = 1;
  for (size_t i = 0; i < len; i++) {
    parts += key[i] == '.' || key[i] == '/';
    if (parts > RP_PARTS_MOST) {
      return bad_word(text, at + i, err, "the key has more than 64 parts");
    }
    if (key[i] == ':') {
      return bad_word(text, at + i, err, "renaming a package with ':' is not supported");
    }
    if (!key_char(key[i])) {
      return bad_word(text, at + i, err,
                      "a key is letters, digits, _ and -, joined by dots (groups: by /)");
    }
    const bool part_ends = i + 1 == len || strchr("./", key[i + 1]);
    if (strchr("./", key[i]) && (i == 0 || part_ends)) {
      return bad_word(text, at + i, err, "a part of the key is empty");
    }
  }
  return RP_OK;
}

/* Length of the UTF-8 character at s, 0 when it is none. */
static int utf8_length(const char *s) {
  const unsigned char *u = (const unsigned char *)s;
  if (u[0] < 0x80) return 1;
  const int n = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
  if (u[0] < 0xc2 || u[0] > 0xf4) return 0;
  for (int i = 1; i < n; i++) {
    if ((u[i] & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xf0 && u[1] < 0x90);
  const bool outside = (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf4 && u[1] > 0x8f);
  return overlong || outside ? 0 : n;
}

static rp_status check_utf8(const char *text, rp_error *err) {
  for (const char *p = text; *p;) {
    const int n = utf8_length(p);
    if (!n) {
      return rp_fail(err, RP_USAGE, "a word is not UTF-8 text, from its byte %d on; it begins %.*s",
                     (int)(p - text) + 1, (int)(p - text < 60 ? p - text : 60), text);
    }
    p += n;
  }
  return RP_OK;
}

rp_status rp_read_word(rp_tree *t, const char *text, rp_word *w, rp_error *err) {
  *w = (rp_word){0};
  RP_TRY(check_utf8(text, err));
  w->text = rp_tree_text(t, text, strlen(text));
  RP_TRY(rp_tree_status(t, text, err));
  text = w->text;
  const char *p = text;
  w->todo = RP_WORD_SET;
  if (rp_starts_with(p, "++")) {
    w->todo = RP_WORD_ADD_OR_SET;
    p += 2;
  } else if (*p == '+') {
    w->todo = RP_WORD_ADD;
    p++;
  } else if (*p == '~') {
    w->todo = RP_WORD_DELETE;
    p++;
  }
  const char *equal = strchr(p, '=');
  if (!equal && w->todo != RP_WORD_DELETE) {
    return rp_fail(err, RP_USAGE,
                   "'%.200s' is no key=value; write the value after =, or ~%.200s to delete", text,
                   p);
  }
  const char *end = equal ? equal : p + strlen(p);
  const char *at = memchr(p, '@', (size_t)(end - p));
  const char *key_end = at ? at : end;
  RP_TRY(check_key(text, p, (size_t)(key_end - p), err));
  w->key = rp_tree_text(t, p, (size_t)(key_end - p));
  if (at) {
    RP_TRY(check_key(text, at + 1, (size_t)(end - at - 1), err));
    w->package = rp_tree_text(t, at + 1, (size_t)(end - at - 1));
  }
  if (equal) {
    w->has_value = true;
    RP_TRY(rp_parse_word_value(t, text, (size_t)(equal + 1 - text), &w->value, err));
  }
  return rp_tree_status(t, text, err);
}
