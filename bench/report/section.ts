/** A part of the report: said once, shown twice, as text in the terminal and as HTML with plots. */

export interface Table {
  readonly caption: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

export interface Column {
  readonly title: string;
  readonly align: 'left' | 'right';
}

export interface Plot {
  /** What a reader who can't see it should know. */
  readonly description: string;
  /** A complete `<svg>` element. */
  readonly svg: string;
}

export interface Finding {
  /** `good` and `bad` answer a question that the run asked; `note` says how far to trust or read a figure. */
  readonly kind: 'good' | 'bad' | 'note';
  readonly text: string;
}

export interface Section {
  readonly title: string;
  readonly findings: readonly Finding[];
  readonly tables: readonly Table[];
  readonly plots: readonly Plot[];
  /** How the figures were measured, in sentences. */
  readonly method: string;
}

/** A column of text. */
export const text = (title: string): Column => ({ title, align: 'left' });
/** A column of figures. */
export const figure = (title: string): Column => ({ title, align: 'right' });

/** At most `digits` behind the point, thousands apart: `12,800`, `1.84`. */
export function formatNumber(value: number, digits = 0): string {
  return value.toLocaleString('en', { maximumFractionDigits: digits });
}

/** A dash for what is not known. */
export function formatKnown(value: number | undefined, digits = 0): string {
  return value === undefined ? '-' : formatNumber(value, digits);
}

/** Microseconds and nanoseconds: three digits that mean something. */
export function formatTime(value: number): string {
  return formatNumber(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

/** A share as per cent: `0 %`, `0.0130 %`, `3.10 %`. */
export function formatShare(share: number): string {
  const percent = 100 * share;
  if (percent === 0) return '0 %';
  return `${percent.toFixed(percent < 0.1 ? 4 : percent < 10 ? 2 : 1)} %`;
}

/** How many times as much: `1.84 x`. */
export function formatRatio(ratio: number): string {
  return `${ratio.toFixed(2)} x`;
}
