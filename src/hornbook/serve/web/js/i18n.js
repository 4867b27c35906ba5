// Every word that the page says. A room of the page keeps its own dictionary in js/words/ and adds it here with words();
// t(key) looks a word up in the language chosen, t(key, {n: 3}) fills {n} in, and "key.one" is taken where n is 1.

import { cell, remember, useCell } from "./state.js";

export const LANGUAGES = [["en", "English"], ["zh", "中文"]];

const dictionaries = { en: {}, zh: {} };

export const language = cell(document.documentElement.lang.startsWith("zh") ? "zh" : "en");

export function words(entries) {
  for (const [code, own] of Object.entries(entries)) Object.assign(dictionaries[code], own);
}

export function setLanguage(code) {
  document.documentElement.lang = code === "zh" ? "zh-CN" : "en";
  remember("language", code);
  language.set(code);
}

export function t(key, values = {}) {
  const own = dictionaries[language.get()];
  const text = (values.n === 1 && own[`${key}.one`]) || own[key] || dictionaries.en[key];
  if (text === undefined) {
    console.warn(`no word for ${key}`);
    return key;
  }
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === "number" ? number(value) : value;
  });
}

/** In a component: draws it anew when the language changes. */
export function useLanguage() {
  return useCell(language);
}

export const locale = () => (language.get() === "zh" ? "zh-CN" : "en");

export function number(value, digits = 1) {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

export function bytes(count) {
  if (!Number.isFinite(count)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) {
    count /= 1000;
    power += 1;
  }
  return `${number(count, count < 10 && power > 0 ? 1 : 0)} ${units[power]}`;
}

/** A moment as people say it: the time today, the day this year, else the date. `seconds` since 1970. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const now = new Date();
  if (date.toDateString() === now.toDateString()) {
    return new Intl.DateTimeFormat(locale(), { hour: "2-digit", minute: "2-digit" }).format(date);
  }
  const form = date.getFullYear() === now.getFullYear() ? {} : { year: "numeric" };
  return new Intl.DateTimeFormat(locale(), { month: "short", day: "numeric", ...form }).format(date);
}

/** Missing and extra keys between the languages, for the tests. */
export function gaps() {
  const [en, zh] = [Object.keys(dictionaries.en), Object.keys(dictionaries.zh)];
  const plain = (keys) => keys.filter((key) => !key.endsWith(".one"));
  return [
    ...plain(en).filter((key) => !(key in dictionaries.zh)),
    ...plain(zh).filter((key) => !(key in dictionaries.en)),
  ];
}
