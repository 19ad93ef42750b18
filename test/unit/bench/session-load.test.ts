import { describe, expect, it } from 'vitest';
import { renderSessionLoadReport } from '../../../bench/report/report.ts';
import type { SessionLoadResults } from '../../../bench/results.ts';
import { fixtureSoak } from './results-fixture.ts';

function fixture(liveSessions: number): SessionLoadResults {
  const { startedAt, machine, route } = fixtureSoak();
  return {
    ...{ startedAt, machine, route, pinning: undefined },
    sessions: 20_000,
    addresses: 40,
    openingMs: 8_500,
    before: { residentBytes: 90e6, openDescriptors: 50, liveSessions: 0, upstreamSockets: 16 },
    during: { residentBytes: 130e6, openDescriptors: 11_290, liveSessions, upstreamSockets: 11_256 },
  };
}

describe('the report of many sessions', () => {
  it('says what they cost the relay, and how much of it each', () => {
    const { text, html } = renderSessionLoadReport(fixture(20_000));
    expect(text).toContain('+ All 20,000 sessions were answered and live at once.');
    expect(text).toContain('had 130 MB resident with them, 90 MB before: 2,000 bytes a session.');
    expect(text).toMatch(/descriptors +50 +11,290/);
    expect(html).toContain('<!doctype html>');
  });

  it('says loudly when they were not all live', () => {
    expect(renderSessionLoadReport(fixture(19_999)).text).toContain(
      '! Only 19,999 of 20,000 sessions LIVE at once.',
    );
  });
});
