import { describe, expect, it } from 'vitest';
import { renderSoakReport } from '../../../bench/report/report.ts';
import { growthOf } from '../../../bench/soak.ts';
import { fixtureSoak } from './results-fixture.ts';

describe("a soak's growth", () => {
  it('is the slope of the resident memory once it has settled', () => {
    const samples = Array.from({ length: 101 }, (_, i) => ({
      atMs: 1_000 * i,
      // It leaps in the first tenth, then grows by 1,000 bytes a second.
      residentBytes: i < 10 ? 5 : 1_000_000 + 1_000 * i,
      openDescriptors: i < 10 ? 90 : 34,
    }));
    const growth = growthOf(samples);
    expect(growth.residentBytesPerHour).toBeCloseTo(3_600_000);
    expect(growth).toMatchObject({
      settledAtMs: 10_000,
      residentBytes: { first: 1_010_000, last: 1_100_000, most: 1_100_000 },
      openDescriptors: { least: 34, most: 34 },
      troughBytes: { first: 1_010_000, last: 1_070_000 },
      isFlat: true,
    });
  });

  const MIB = 2 ** 20;
  /** A soak of ten minutes, looked at once a second. */
  const soakOf = (resident: (second: number) => number, descriptors: (second: number) => number = () => 34) =>
    growthOf(
      Array.from({ length: 600 }, (_, i) => ({
        atMs: 1_000 * i,
        residentBytes: resident(i),
        openDescriptors: descriptors(i),
      })),
    );

  it('is none when a heap rises and falls, wherever the run cuts it off', () => {
    for (const period of [70, 100, 130, 170]) {
      const growth = soakOf((second) => 100 * MIB + (20 * MIB * (second % period)) / period);
      expect(growth.isFlat).toBe(true);
    }
  });

  it('is told from what a rising and falling heap falls back to', () => {
    const leak = (second: number) =>
      100 * MIB + 20 * MIB * ((second % 100) / 100) + (second * 20 * MIB) / 600;
    expect(soakOf(leak)).toMatchObject({ isFlat: false, allowedBytes: 8 * MIB });
  });

  it('is told from descriptors, of which fewer are none', () => {
    expect(
      soakOf(
        () => MIB,
        (second) => 34 + Math.floor(second / 100),
      ).isFlat,
    ).toBe(false);
    expect(
      soakOf(
        () => MIB,
        (second) => 150 - Math.floor(second / 10),
      ).isFlat,
    ).toBe(true);
  });

  it('of one sample is none', () => {
    expect(growthOf([{ atMs: 0, residentBytes: 7, openDescriptors: undefined }])).toEqual({
      settledAtMs: 0,
      residentBytes: { first: 7, last: 7, most: 7 },
      residentBytesPerHour: 0,
      openDescriptors: undefined,
      troughBytes: { first: 7, last: 7 },
      isFlat: true,
      allowedBytes: 32 * MIB,
    });
  });
});

describe("a soak's report", () => {
  it('says what grew, what stayed flat, and that a short run says little', () => {
    const { text, html } = renderSoakReport(fixtureSoak());
    expect(text).toContain('+ All 38,400 updates were answered, none by a wrong server.');
    expect(text).toMatch(
      /Resident memory went from 60.2 to 62 MiB, a slope of \+360 MiB an hour. So short a run/,
    );
    expect(text).toContain('+ It did not grow: the least was 60.2 MiB in the first third');
    expect(text).toContain('+ Descriptors stayed flat at 34.');
    expect(html.match(/<svg/g)).toHaveLength(2);
  });

  it('says loudly when updates were lost', () => {
    expect(renderSoakReport(fixtureSoak({ lost: 3, loss: 0.0001 })).text).toContain(
      '! 3 of 38,400 updates were LOST',
    );
  });
});
