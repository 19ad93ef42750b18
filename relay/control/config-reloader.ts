/**
 * Changes the configuration of a running relay, on SIGHUP or `PUT /v1/config`. One reload at a time; a bad configuration
 * leaves the old one running, and says so in the log, the answer and the metrics.
 */
import type { Logger } from 'pino';
import { isDeepStrictEqual } from 'node:util';
import { RelayError } from '../../net/relay-error.ts';
import {
  loadConfig,
  parseConfig,
  type CheckedConfig,
  type ConfigOverrides,
  type RelayConfig,
} from './config.ts';

export interface ConfigReloaderOptions {
  /** The file that the relay was started with; absent when it was started with flags. */
  readonly path: string | undefined;
  readonly overrides?: ConfigOverrides | undefined;
  readonly current: () => RelayConfig;
  /** Takes the configuration over, all or nothing. */
  readonly apply: (config: RelayConfig) => Promise<void>;
  readonly logger: Logger;
}

export interface ReloadStatus {
  readonly succeeded: number;
  readonly failed: number;
  /** Whether the last reload succeeded; true when there was none. */
  readonly isLastSuccessful: boolean;
  /** Wall clock of the last success or the start, in seconds since 1970. For display only. */
  readonly lastSuccessAtSeconds: number;
}

/** Keys that a running relay can't change. */
const FIXED_KEYS = ['name', 'engine', 'workers', 'coalesceUs', 'hashSeed', 'kernel', 'limits'] as const;

export class ConfigReloader {
  readonly #options: ConfigReloaderOptions;
  #last: Promise<unknown> = Promise.resolve();
  #succeeded = 0;
  #failed = 0;
  #isLastSuccessful = true;
  #lastSuccessAtSeconds = Date.now() / 1_000;

  constructor(options: ConfigReloaderOptions) {
    this.#options = options;
  }

  /**
   * Reads the file again, or takes `text` instead. In `text`, variables of the environment are not filled in: whoever
   * may send a configuration may not thereby read the relay's environment.
   *
   * @returns warnings, those about keys that need a restart included
   * @throws RelayError TICKRELAY_ERR_CONFIG, or what `apply` threw; the old configuration is still running
   */
  reload(text?: string): Promise<readonly string[]> {
    const next = this.#last.then(() => this.#reload(text));
    this.#last = next.catch(() => undefined);
    return next;
  }

  status(): ReloadStatus {
    return {
      succeeded: this.#succeeded,
      failed: this.#failed,
      isLastSuccessful: this.#isLastSuccessful,
      lastSuccessAtSeconds: this.#lastSuccessAtSeconds,
    };
  }

  async #reload(text: string | undefined): Promise<readonly string[]> {
    const { current, apply, overrides, logger } = this.#options;
    try {
      const { config: read, warnings } = await this.#read(text);
      const config = { ...read, ...overrides };
      const all = [...warnings, ...restartWarnings(current(), config)];
      await apply(config);
      this.#succeeded++;
      this.#isLastSuccessful = true;
      this.#lastSuccessAtSeconds = Date.now() / 1_000;
      logger.info({ warnings: all }, 'configuration reloaded');
      return all;
    } catch (error) {
      this.#failed++;
      this.#isLastSuccessful = false;
      logger.error({ err: error }, 'configuration not reloaded; the old one stays in force');
      throw error;
    }
  }

  async #read(text: string | undefined): Promise<CheckedConfig> {
    if (text !== undefined) return parseConfig(text, { source: 'request body', env: {} });
    const { path } = this.#options;
    if (path !== undefined) return loadConfig(path);
    throw new RelayError(
      'TICKRELAY_ERR_CONFIG',
      'the relay was started without a configuration file, so there is none to read again; send the configuration',
    );
  }
}

function restartWarnings(current: RelayConfig, next: RelayConfig): string[] {
  const changed: string[] = FIXED_KEYS.filter((key) => !isDeepStrictEqual(current[key], next[key]));
  if (current.admin?.listen.toString() !== next.admin?.listen.toString()) changed.push('admin.listen');
  return changed.map((key) => `${key}: a change takes effect after a restart`);
}
